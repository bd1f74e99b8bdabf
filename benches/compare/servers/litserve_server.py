"""LitServe, as its documents advise: a worker and an API server for each core, dynamic batching, ZeroMQ (`fast_queue`).

`fast_queue` is meant for hundreds of requests a second and more; BENCH_FAST_QUEUE turns it off for models that are
slower than that, as the documents say.
"""

import os

import litserve
import model


class Predictor(litserve.LitAPI):
    """A request's instances, or those of a batch of requests."""

    def setup(self, device: str) -> None:
        """Loads the model, in each worker."""
        self.model = model.Model()

    def decode_request(self, request: dict) -> list:
        """The prepared tensors of a request."""
        return [self.model.prepare(instance) for instance in request["instances"]]

    def batch(self, inputs: list) -> list:
        """As it comes: `predict` joins the tensors."""
        return inputs

    def predict(self, requests: list) -> list:
        """One run of the model for all."""
        tensors = [tensor for request in requests for tensor in request]
        answers = iter(self.model.answer(self.model.predict(model.np.stack(tensors))))
        return [[next(answers) for _ in request] for request in requests]

    def unbatch(self, output: list) -> list:
        """One entry a request already."""
        return output

    def encode_response(self, output: list) -> dict:
        """Vertex AI's form."""
        return {"predictions": output}


if __name__ == "__main__":
    api = Predictor(max_batch_size=max(2, model.BATCH), batch_timeout=model.DELAY)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=model.WORKERS, timeout=60,
        fast_queue=os.environ.get("BENCH_FAST_QUEUE") == "1",
    )  # fmt: skip
    server.run(
        host="127.0.0.1", port=model.PORT, num_api_servers=model.WORKERS, log_level="warning", access_log=False,
        generate_client_file=False,
    )  # fmt: skip
