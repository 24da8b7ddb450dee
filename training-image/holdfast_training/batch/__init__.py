"""Scoring a table: from rows to Parquet files with a model's answers.

`python -m holdfast_training batch` carries out one pod's share of the run that `HOLDFAST_BATCH` describes. `source`
finds the rows and cuts them into shards, `inputs` makes of them what the model takes, `model` answers, `bins` counts
how rows are spread, `parts` keeps the answers of each shard, and `score` is the road through all of them.
"""
