"""Part of the `azureml` namespace that exists inside runs; packages installed under it stay visible."""

__path__ = __import__("pkgutil").extend_path(__path__, __name__)
