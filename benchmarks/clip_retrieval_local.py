"""clip-retrieval's command with a teacher of a local folder, for `peers.py`.

clip-retrieval takes only models that `open_clip.list_pretrained()` names, which are no folders.
This runs the command with a list of one model, `teacher`, which is that of the folder:

    python benchmarks/clip_retrieval_local.py local-dir:FOLDER inference ... \
        --clip_model open_clip:teacher

The model is put in evaluation mode.  clip-retrieval leaves it in training mode, in which batch
normalisation takes the statistics of each batch.
"""

import sys

from clip_retrieval.cli import main

if __name__ == "__main__":  # the command's own processes import this file, too
    import open_clip

    folder = sys.argv.pop(1)
    create, tokenizer = open_clip.create_model_and_transforms, open_clip.get_tokenizer

    def create_evaluating(name: str, **options):
        """The folder's model, whatever the name."""
        model, *transforms = create(folder, **options)
        return model.eval(), *transforms

    open_clip.list_pretrained = lambda: [("teacher", None)]
    open_clip.create_model_and_transforms = create_evaluating
    open_clip.get_tokenizer = lambda name: tokenizer(folder)
    main()
