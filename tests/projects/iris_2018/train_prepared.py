# Trains on what a data preparation package gives, as scripts of 2017 do.
import os
import pickle
import sys

from azureml.dataprep.package import run
from azureml.logging import get_azureml_logger
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

logger = get_azureml_logger()
os.makedirs("./outputs", exist_ok=True)

flowers = run("flowers.dprep", dataflow_idx=0, spark=False)
print("shape: {}".format(flowers.shape))

features = flowers[["Sepal Length", "Sepal Width", "Petal Length", "Petal Width"]].values
train_x, test_x, train_y, test_y = train_test_split(features, flowers["Species"].values, random_state=0)

rate = float(sys.argv[1]) if len(sys.argv) > 1 else 0.01
model = LogisticRegression(C=1 / rate, max_iter=1000).fit(train_x, train_y)
logger.log("Regularization Rate", rate)
logger.log("Accuracy", model.score(test_x, test_y))

with open("./outputs/model.pkl", "wb") as file:
    pickle.dump(model, file)
