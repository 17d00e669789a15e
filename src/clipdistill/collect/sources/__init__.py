"""Where pictures are searched: one small function a source, all with the signature of `Source`.

    hits        what a source is, and how several prompts share what they find
    asking      several prompts at a time
    http        asking a service over HTTP: limits, retries, errors that say what came
    words       what a prompt asks for, as words, for sources that know no embeddings
    licenses    licences by their short names
    knn         a service that speaks clip-retrieval's protocol
    commons     Wikimedia Commons
    openverse   Openverse
    tables      tables of URLs and captions; table_files opens them
    pooled      a pool of embeddings
    journal     what an interrupted search found before it was interrupted
    options     the settings of all of them

(The package is not called `search`: `clipdistill.search` is the function.)
"""
