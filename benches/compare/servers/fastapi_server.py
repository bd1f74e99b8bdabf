"""FastAPI on uvicorn, as its documents deploy it: one process a core, uvloop and httptools, no access log.

- The route takes the `Request` and reads the body with orjson: a pydantic model of the body would copy and check the
  base64 text once more.
- It is `async` and computes where it stands. A plain `def` would go through a pool of 40 threads, which costs a hop on
  a small model, and on a large one puts more threads to work than there are cores.
"""

import contextlib
from collections.abc import AsyncIterator

import model
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

predictor = None


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Loads the model, in each worker, before it listens."""
    global predictor
    predictor = model.Model()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> Response:
    """Vertex AI's form."""
    instances = orjson.loads(await request.body())["instances"]
    return Response(orjson.dumps({"predictions": predictor(instances)}), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_server:app", host="127.0.0.1", port=model.PORT, workers=model.WORKERS, loop="uvloop", http="httptools",
        access_log=False, log_level="warning",
    )  # fmt: skip
