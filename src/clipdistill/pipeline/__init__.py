"""The road from prompts to a classifier, as `run` goes it: settings, steps, plan, estimate, record.

`steps` says what there is to do and what each step depends on, `plan` what of it is done already,
`estimate` how long the rest takes.  Nothing here calls a stage; `stages/run.py` does.
"""
