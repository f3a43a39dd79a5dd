"""The transfer benchmark: does pre-training help a detector, by how much, and at what price?

    scales + arms -> jobs -> runner -> pretrain_job -> start folder -> probe_job, detect_job -> results/*.json
    results/*.json -> statistics -> report, plots

One stage a file. `scripts/benchmark_transfer.py` is the command.
"""
