"""The trainer of Holdfast: from a table to a model bundle.

`python -m holdfast_training` carries out the run that `HOLDFAST_RUN` describes. One module per step:
`data` reads the table, `columns` turns it into features and a target, `estimators` and `preprocessing` make the
scikit-learn model, `evaluation` splits and measures, `conversion` makes and checks the ONNX model, `reference` and
`output` write the bundle, and `train` is the road through all of them.
"""
