"""What a run made, as pages for people: an HTML report and a model card.

gather       a run's folder -> frozen dataclasses; nothing else reads files
naming       which of a run's models a file or folder is
standing     how the models compare, and which one is shown
classes      how each class fares, and what is taken for what
gallery      which pictures are shown, and as what
reliability  whether probabilities can be believed
data         where the pictures came from
words        sentences and numbers
figures      charts, each with its message in words
html         all of it in one file that asks for nothing else
model_card   the same in markdown, as Hugging Face has it
"""
