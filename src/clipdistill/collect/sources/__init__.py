"""The sources of image URLs: each is one function with the signature of `Source`.

    hits        what a source is, and how hits are shared among prompts
    asking      searching for several prompts at a time
    http        requests to a service over HTTP: limits, retries, errors that describe the answer
    keywords    the words of a prompt, for sources without embeddings
    licenses    licences by their short names
    knn         a service with clip-retrieval's protocol
    commons     Wikimedia Commons
    openverse   Openverse
    tables      tables of URLs and captions; table_files opens them
    pooled      a pool of embeddings
    journal     the hits of an interrupted search
    options     the settings of all of them

(The package is not called `search`: `clipdistill.search` is the function.)
"""
