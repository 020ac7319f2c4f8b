"""What all stages share: in comes a declared stage, out come committed datasets.

`stage` (validity, commit, accounting) uses `session` (the engine), `roots` (the corpus directory),
`dataset_io` (files of datasets), `progress` (bars) and `disk_faults` (messages about full disks).
"""
