"""Planning: what a run will need and how long it will take, worked out before anything is loaded (`xraygpt plan`).

    run         RunShape: sizes, what is trained and how it is stored, batch, tokens of a row
    flops       floating-point operations of a step, by part
    memory      bytes of a step, by part; the largest batch that fits
    hardware    what GPUs can do at most, and what is assumed of it
    roofline    seconds of a step, and hours of a run
    plan        all of it, the same run with one setting changed, and with more GPUs
    texts       tokens of the captions and prompts

FLOPs and bytes are those of the code in `xraygpt.models`, and tests hold them against measurements. Seconds are predictions.
"""
