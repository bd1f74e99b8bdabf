"""Ray Serve, as its documents advise for throughput: a replica for each core, `serve.batch`, the throughput settings.

RAY_SERVE_THROUGHPUT_OPTIMIZED (set by the harness) runs user code and router on the replica's own loop, buffers its
request logs and uses gRPC between proxy and replicas. The dashboard is off, and access logs are.
"""

import signal
import tempfile

import model
import orjson
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(
    num_replicas=model.WORKERS, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 1},
    logging_config={"enable_access_log": False, "log_level": "WARNING"},
)  # fmt: skip
class Predictor:
    """A request's instances, or those of a batch of requests."""

    def __init__(self) -> None:
        self.model = model.Model()

    @serve.batch(max_batch_size=model.BATCH, batch_wait_timeout_s=model.DELAY)
    async def answer(self, requests: list[list]) -> list[list]:
        """One run of the model for all."""
        tensors = [tensor for request in requests for tensor in request]
        answers = iter(self.model.answer(self.model.predict(model.np.stack(tensors))))
        return [[next(answers) for _ in request] for request in requests]

    async def __call__(self, request: Request) -> Response:
        """Vertex AI's form."""
        instances = orjson.loads(await request.body())["instances"]
        answer = await self.answer([self.model.prepare(instance) for instance in instances])
        return Response(orjson.dumps({"predictions": answer}), media_type="application/json")


if __name__ == "__main__":
    # A session folder with a short name: sockets in it have paths of at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=model.WORKERS, include_dashboard=False, log_to_driver=False, _temp_dir=folder,
            object_store_memory=100 << 20, _node_ip_address="127.0.0.1",
        )  # fmt: skip
        serve.start(http_options={"host": "127.0.0.1", "port": model.PORT})
        serve.run(Predictor.bind(), route_prefix="/predict")
        signal.signal(signal.SIGTERM, lambda *_: ray.shutdown())
        signal.pause()
