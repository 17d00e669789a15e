"""The pages of a run: an HTML report and a model card.

gather       reads a run's folder into frozen dataclasses; only data and thumbnails read files, too
naming       names of a run's models
standing     comparison of the models, and the one that is shown
classes      accuracy of each class, and confused classes
gallery      images that are shown, with their predictions
reliability  error of the probabilities
data         sources of the images
summary      headline, key figures and findings
missing      what a run does not have, and the command that adds it
figures      charts, each with its values in words
html         the report in one file that loads nothing else
model_card   the model card in markdown
"""
