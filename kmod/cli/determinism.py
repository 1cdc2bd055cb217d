"""`--deterministic`: the same bits from every run on a machine."""

import argparse


def add_deterministic_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same modules, bit by bit, from every run with the same seed "
        "on this machine; may take longer",
    )


def prepare(args: argparse.Namespace) -> None:
    """Lets all operations of this process be deterministic, if asked to.

    JAX's operations are, on processors; TensorFlow's only when told so.
    """
    import keras

    if args.deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
