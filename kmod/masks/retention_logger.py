"""Callback that shows the retention rate in the progress bar."""

import keras


class RetentionLogger(keras.callbacks.Callback):
    """Adds the retention rate to the logs, before other callbacks read them.

    Metrics inside layers would do it, but not on JAX.
    """

    def on_epoch_end(self, epoch, logs=None):
        logs["retention_rate"] = self.model.retention_rate
