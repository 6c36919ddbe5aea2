"""Runs as others keep them: `mlflow` sends them to an MLflow server, `rocrate` packs one as an RO-Crate."""
