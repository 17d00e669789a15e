"""Live classification of a camera, a video or a folder of images.

    source ──reader──▶ frames ──preprocess──▶ pixels ──model──▶ answers ──▶ views
             thread    (newest     thread                thread     terminal, window, recorder
                        or all)                                     (the main thread)

Decoding, preprocessing and the model overlap, so the slowest of them determines the speed.  A
source that cannot wait (a camera) fills a place for one frame.  A newer frame replaces an older one
there, so the shown frame is always recent.

The package is not named `demo`, because a subpackage of that name would hide the function
`clipdistill.demo`.
"""
