-- Run once, by PostgreSQL's image, when compose.yaml makes the database: MLflow has one of its own.
CREATE DATABASE mlflow;
