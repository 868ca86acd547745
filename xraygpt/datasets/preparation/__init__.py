"""Preparation: raw downloads and synthetic images → folders that training reads.

openi             Open-i's official download → prepared folder
filters           the paper's filters on whole reports, with counts
cleaning          findings and impression → one caption
splits            train, val or test, by a hash of the study
prepared_folder   images, filter_cap.json and manifest.json, written whole or not at all
phantom*          synthetic radiographs whose findings are known
"""
