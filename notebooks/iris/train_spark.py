"""Train a classifier on iris.csv with Spark: train_spark.py [regularization]."""

import json
import sys

from azureml.logging import get_azureml_logger
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import StringIndexer, VectorAssembler
from pyspark.sql import SparkSession

logger = get_azureml_logger()
spark = SparkSession.builder.appName("iris").getOrCreate()
print(f"Spark {spark.version} on {spark.sparkContext.master}")

regularization = float(sys.argv[1]) if len(sys.argv) > 1 else 0.01
logger.log("regularization", regularization)

flowers = spark.read.csv("iris.csv", header=True, inferSchema=True)
measures = VectorAssembler(inputCols=flowers.columns[:4], outputCol="features")
labels = StringIndexer(inputCol="species", outputCol="label").fit(flowers)
train, test = labels.transform(measures.transform(flowers)).randomSplit([0.65, 0.35], seed=0)

model = LogisticRegression(regParam=regularization, maxIter=20).fit(train)
accuracy = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(model.transform(test))
print(f"accuracy {accuracy:.3f} with regularization {regularization}")
logger.log("rows", flowers.count())
logger.log("accuracy", accuracy)

with open("outputs/coefficients.json", "w") as file:
    json.dump({"species": labels.labels, "coefficients": model.coefficientMatrix.toArray().tolist()}, file)
spark.stop()
