"""Preparation: what people really have → folders that training reads.

The way from a source to a folder (`xraygpt prepare`):

    pipeline          studies → texts → images → annotations → account; reads like a table of contents
    study             what a source delivers, and what a source is
    account           counts, drops, problems, and the identity of every file
    texts             the paper's summary, the text as it stands, or none
    image_files       verified, linked or converted, in parallel, resumable
    splits            train, val or test by a hash; the check that nothing leaks
    prepared_folder   filled under a hidden name, in its place when it is complete
    datasheet         the folder in words

Sources:

    openi*            Open-i, as XML files or as tables
    mimic*            MIMIC-CXR and MIMIC-CXR-JPG as PhysioNet lays them out
    table*            anybody's own table beside images; table_files reads CSV, JSON lines and Parquet
    image_folder      images alone; image_names says what they are called
    phantom*          synthetic radiographs whose findings are known (`xraygpt phantom`)

Texts:

    sections          a report's plain text → its sections
    cleaning*         findings and impression → one caption, by rules
    repetition        leaves out what another sentence says
    rewriting*        a language model instead of the rules, with an audit

Files from elsewhere:

    download          Open-i's archives, fetched and checked
    transfer          one file over HTTP, resumed
    archive           unpacking, safely
    disk_space        full disks

Looking at a folder (`xraygpt data show`):

    folder_summary    its numbers
    folder_checks     what is suspicious
    contact_sheet     a page with some of its images and texts
"""
