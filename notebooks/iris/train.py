"""Train a classifier on iris.csv: train.py [regularization]."""

import csv
import pickle
import sys

import matplotlib.pyplot as plt
from azureml.logging import get_azureml_logger
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split

logger = get_azureml_logger()

regularization = float(sys.argv[1]) if len(sys.argv) > 1 else 0.01
logger.log("regularization", regularization)

with open("iris.csv") as file:
    rows = list(csv.reader(file))[1:]
measures = [[float(value) for value in row[:4]] for row in rows]
species = [row[4] for row in rows]
train, test, train_species, test_species = train_test_split(
    measures, species, test_size=0.35, random_state=0
)

model = LogisticRegression(C=1 / regularization, max_iter=1000).fit(train, train_species)
accuracy = model.score(test, test_species)
print(f"accuracy {accuracy:.3f} with regularization {regularization}")
logger.log("accuracy", accuracy)

with open("outputs/model.pkl", "wb") as file:
    pickle.dump(model, file)

ConfusionMatrixDisplay.from_estimator(model, test, test_species, colorbar=False)
plt.savefig("outputs/confusion.png")
