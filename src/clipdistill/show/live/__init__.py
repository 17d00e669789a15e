"""A classifier at work on what a camera sees, or a video, or a folder of pictures.

    source ──reader──▶ frames ──preprocess──▶ pixels ──model──▶ answers ──▶ views
             thread    (newest     thread                thread     terminal, window, recorder
                        or all)                                     (the main thread)

Decoding, preprocessing and the model overlap, so that the slowest of them decides how fast it goes.
A source that cannot wait (a camera) fills a place for one frame: what nobody fetched in time is
dropped, so that what is shown is never old.

The package is not called `demo`: a subpackage of that name would hide the function
`clipdistill.demo`.
"""
