"""Serves a composed or patched model over HTTP; new versions take over.

    pip install starlette uvicorn
    KMOD_MODEL=built/even-digits uvicorn --app-dir tutorials serve:app

The protocol is that of TensorFlow Serving's REST API, NAME the directory's:

    GET  /v1/models/NAME            which version answers
    POST /v1/models/NAME:predict    {"instances": [IMAGE, ...]}
                                 →  {"predictions": [[0.01, 0.99], ...]}

An image is a nested list `(height, width, channels)` of values as the model
takes them, mostly 0 to 255. Replace the directory while it is served, such as
by `kmod patch ... --out built/even-digits --overwrite`: the new model is
loaded and checked while the old one answers on. One that can not be loaded
does not take over, and the log says why.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import os
from pathlib import Path

import numpy as np
import tensorflow as tf
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

import kmod

MAX_BYTES = 64 * 2**20  # Of a request.
MAX_IMAGES = 64  # To answer at once, of all requests that wait.
SECONDS = 0.5  # Between two looks at the directory.

log = logging.getLogger("uvicorn.error")


class Version:
    """A model that is ready to answer.

    Args:
        path: Directory of a composed or patched model.

    Raises:
        kmod.ArtifactError: If there is none, or it is not as it was written.
    """

    def __init__(self, path: Path):
        model = kmod.load(path)
        self.shape = tuple(model.input_shape[1:])
        self.class_names = list(model.class_names)
        self.digest = model.manifest.files["model.keras"]["digest"]
        images = tf.TensorSpec((None, *self.shape), "float32")
        self._answer = tf.function(model, input_signature=[images])
        self.answer(np.zeros((1, *self.shape), "float32"))  # Traces it.

    def answer(self, images: np.ndarray) -> np.ndarray:
        return self._answer(images).numpy()


class Server:
    """Answers with the model that a directory holds.

    Requests that come while the model is busy are answered together.

    Args:
        path: Directory of a composed or patched model.
    """

    def __init__(self, path: Path):
        self.path = path
        self.version = Version(path)
        self._seen = _identity(path)
        self._waiting = asyncio.Queue()
        self._threads = concurrent.futures.ThreadPoolExecutor()

    async def run(self) -> None:
        await asyncio.gather(self._watch(), self._work())

    async def answer(self, images: np.ndarray) -> np.ndarray:
        """Waits for the answers to images `(n, height, width, channels)`.

        Raises:
            ValueError: If the model takes images of another shape.
        """
        answers = asyncio.get_running_loop().create_future()
        await self._waiting.put((images, answers))
        return await answers

    async def _watch(self):
        while True:
            await asyncio.sleep(SECONDS)
            found = _identity(self.path)
            if found in (None, self._seen):
                continue
            self._seen = found
            try:
                self.version = await self._in_thread(Version, self.path)
                log.info("Serving %s now.", self.version.digest)
            except kmod.KmodError as error:
                log.error("The model before goes on. %s", error)

    async def _work(self):
        while True:
            requests = [await self._waiting.get()]
            while not self._waiting.empty() and len(requests) < MAX_IMAGES:
                requests.append(self._waiting.get_nowait())
            version, fit = self.version, []
            for images, answers in requests:
                if images.shape[1:] == version.shape:
                    fit.append((images, answers))
                elif not answers.cancelled():
                    answers.set_exception(
                        ValueError(
                            f"Images must have the shape {version.shape}. "
                            f"Received: {images.shape[1:]}"
                        )
                    )
            if fit:
                await self._answer_together(version, fit)

    async def _answer_together(self, version, requests):
        together = np.concatenate([images for images, _ in requests])
        try:
            found = await self._in_thread(version.answer, together)
        except Exception as error:  # The server outlives it.
            for _, answers in requests:
                answers.set_exception(error)
            return
        for images, answers in requests:
            if not answers.cancelled():
                answers.set_result(found[: len(images)])
            found = found[len(images) :]

    def _in_thread(self, function, *args):
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._threads, function, *args)


def _identity(path):
    """What differs once a directory was replaced; `None` if none is there."""
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(path)
        return found.st_ino, found.st_mtime_ns


def images_of(body: bytes) -> np.ndarray:
    """Reads the images of a request.

    Raises:
        ValueError: If they are no numbers `(n, height, width, channels)`.
    """
    try:
        images = np.array(json.loads(body)["instances"], "float32")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The body is no request: {error}") from error
    if images.ndim != 4 or not len(images) or not np.isfinite(images).all():
        raise ValueError(
            '"instances" must be images (height, width, channels) of numbers. '
            f"Received: an array of shape {images.shape}"
        )
    return images


async def describe(request):
    version = request.app.state.server.version
    return JSONResponse(
        {
            "digest": version.digest,
            "class_names": version.class_names,
            "shape": version.shape,
        }
    )


async def predict(request):
    if int(request.headers.get("content-length", 0)) > MAX_BYTES:
        return JSONResponse({"error": f"Over {MAX_BYTES} bytes."}, 413)
    try:
        images = images_of(await request.body())
        answers = await request.app.state.server.answer(images)
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    return JSONResponse({"predictions": answers.tolist()})


def app_of(path: str | Path) -> Starlette:
    """Makes the ASGI application that serves a model's directory."""
    path = Path(path)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        app.state.server = Server(path)
        running = asyncio.create_task(app.state.server.run())
        yield
        running.cancel()

    url = f"/v1/models/{path.name}"
    routes = [
        Route(url, describe),
        Route(f"{url}:predict", predict, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def __getattr__(name):
    if name == "app":
        return app_of(os.environ["KMOD_MODEL"])
    raise AttributeError(name)
