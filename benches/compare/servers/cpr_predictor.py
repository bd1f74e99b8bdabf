"""The predictor of Vertex AI's custom prediction routine, for `google.cloud.aiplatform.prediction.model_server`.

The server is Google's, with its default handler. It has one process for each core (VERTEX_CPR_WEB_CONCURRENCY), each of
which takes a request at a time; it forms no batches.
"""

import model
from google.cloud.aiplatform.prediction.predictor import Predictor


class BenchPredictor(Predictor):
    """Preparation, run and answer in the three steps that the server calls."""

    def load(self, artifacts_uri: str, **_: object) -> None:
        """Loads the model, in each worker. It lies on this disk, so there is nothing to download."""
        self.model = model.Model()

    def preprocess(self, prediction_input: dict) -> model.np.ndarray:
        """The batch of a request's instances."""
        return model.np.stack([self.model.prepare(instance) for instance in prediction_input["instances"]])

    def predict(self, instances: model.np.ndarray) -> list:
        """The outputs."""
        return self.model.predict(instances)

    def postprocess(self, prediction_results: list) -> dict:
        """Vertex AI's form."""
        return {"predictions": self.model.answer(prediction_results)}
