"""Settings that TensorFlow reads when it is imported, as variables."""

import logging
import os
import platform

COMPILED_KEPT = 16_384
THREADS = (
    "OMP_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def use_fast_kernels() -> None:
    """Keeps TensorFlow's fast kernels on.

    TensorFlow leaves oneDNN off on some processors, such as those without
    AVX-512, though convolutions gain there as well. oneDNN compiles each size
    of a layer, and by default keeps 1,024 of what it has compiled. Modules
    that train together have more when there are about 17 of them, and each
    step would then compile them anew.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        os.environ.setdefault(
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(COMPILED_KEPT)
        )


def leave_out_notes() -> None:
    """Keeps TensorFlow's notes and warnings out of the messages."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def limit_tensorflow(threads: int) -> None:
    """Sets threads and memory growth, before TensorFlow is imported.

    A worker that is used again keeps what its first task has set.
    """
    use_fast_kernels()
    leave_out_notes()
    for name in THREADS:
        os.environ[name] = str(threads)
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # Of JAX.
