"""The forms that a model is saved in, each compared with the model itself."""
