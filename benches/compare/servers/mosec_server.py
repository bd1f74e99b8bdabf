"""mosec, as its documents advise: one worker a core, dynamic batching, orjson instead of the default json.

One stage, not two: with decoding in a stage of its own each tensor (600 KB) would be pickled from process to process,
and both stages would share the same cores. The command line sets the address, and limits above the defaults of 3 s and
10 MiB.
"""

import model
import orjson
from mosec import Server, Worker


class Predictor(Worker):
    """A request's instances, or those of a batch of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.model = model.Model()

    def deserialize(self, data: bytes) -> list:
        """The prepared tensors of a request."""
        return [self.model.prepare(instance) for instance in orjson.loads(data)["instances"]]

    def serialize(self, data: list) -> bytes:
        """Vertex AI's form."""
        return orjson.dumps({"predictions": data})

    def forward(self, data: list) -> list:
        """One run of the model for all."""
        requests = data if self.max_batch_size > 1 else [data]
        tensors = [tensor for request in requests for tensor in request]
        answers = iter(self.model.answer(self.model.predict(model.np.stack(tensors))))
        answered = [[next(answers) for _ in request] for request in requests]
        return answered if self.max_batch_size > 1 else answered[0]


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Predictor, num=model.WORKERS, max_batch_size=model.BATCH, max_wait_time=max(1, round(model.DELAY * 1000)),
        timeout=60, route="/predict",
    )  # fmt: skip
    server.run()
