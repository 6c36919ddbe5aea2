# Trains a classifier on the iris data, keeps the model in the shared folder and reads it back from there.
# Written as scripts of 2018 were: runs unmodified.
import os
import pickle
import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder

from azureml.logging import get_azureml_logger

# initialize the logger
run_logger = get_azureml_logger()

os.makedirs('./outputs', exist_ok=True)
# the folder that outlives the run; its value ends with a slash
share = os.environ['AZUREML_NATIVE_SHARE_DIRECTORY']

print('Python version: {}'.format(sys.version))

rows = [line.split(',') for line in open('iris.csv').read().split('\n') if line]
X = np.array([[float(value) for value in row[:4]] for row in rows])
Y = LabelEncoder().fit_transform([row[4] for row in rows])
print('Iris dataset shape: {}'.format(X.shape))

# noise makes it harder
random_state = np.random.RandomState(0)
X = np.c_[X, random_state.randn(X.shape[0], 40)]
X_train, X_test, Y_train, Y_test = train_test_split(X, Y, test_size=0.35, random_state=0)

reg = 0.01
if len(sys.argv) > 1:
    reg = float(sys.argv[1])
print('Regularization rate is {}'.format(reg))
run_logger.log('Regularization Rate', reg)

clf = LogisticRegression(C=1 / reg, max_iter=5000).fit(X_train, Y_train)
accuracy = clf.score(X_test, Y_test)
print('Accuracy is {}'.format(accuracy))
run_logger.log('Accuracy', accuracy)

probabilities = clf.predict_proba(X_test)
precision, recall, thresholds = precision_recall_curve(Y_test, probabilities[:, 1], pos_label=1)
run_logger.log('Precision', precision)
run_logger.log('Recall', recall)
run_logger.log('Thresholds', thresholds)
run_logger.log('Classes', [str(one) for one in clf.classes_]).wait()

print('Export the model to {}'.format(share + 'model.pkl'))
with open(share + 'model.pkl', 'wb') as f:
    pickle.dump(clf, f)

with open(share + 'model.pkl', 'rb') as f:
    again = pickle.load(f)
sample = [[3.0, 3.6, 1.3, 0.25] + [0.0] * 40]
print('Predicted class is {}'.format(again.predict(sample)))
run_logger.upload('prediction/class.txt', str(again.predict(sample)[0]))
with open('./outputs/model.pkl', 'wb') as f:
    pickle.dump(again, f)
