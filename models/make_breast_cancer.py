#!/usr/bin/env python3
"""Train a small XGBoost classifier on 30 features and write it as ONNX: benches/data/breast-cancer/1/model.onnx.

The data are scikit-learn's copy of the Breast Cancer Wisconsin (Diagnostic) set, 569 rows. The model is for measuring
what a server costs beside it: a row takes it some ten microseconds. Seeded; needs models/requirements-tabular.txt.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from xgboost import XGBClassifier

OUTPUT = Path(__file__).resolve().parent.parent / "benches/data/breast-cancer"


def main() -> None:
    """Trains, converts, compares, writes."""
    rows, labels = load_breast_cancer(return_X_y=True)
    features = rows.astype(np.float32)
    train, test, train_labels, test_labels = train_test_split(features, labels, test_size=0.25, random_state=0)
    classifier = XGBClassifier(n_estimators=100, max_depth=6, learning_rate=0.1, random_state=0, n_jobs=1)
    classifier.fit(train, train_labels)

    graph = convert_xgboost(classifier, initial_types=[("features", FloatTensorType([None, features.shape[1]]))])
    onnx.checker.check_model(graph)
    path = OUTPUT / "1/model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString())
    (OUTPUT / "request.json").write_text(json.dumps({"instances": [rows[0].tolist()]}) + "\n")

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    _, probabilities = session.run(None, {"features": test})
    difference = np.abs(probabilities - classifier.predict_proba(test)).max()
    accuracy = (classifier.predict(test) == test_labels).mean()
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes, accuracy {accuracy:.3f} on {len(test)} rows, differs by {difference:.1e} at most")
    assert difference < 1e-5


if __name__ == "__main__":
    main()
