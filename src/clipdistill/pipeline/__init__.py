"""The pipeline from prompts to a classifier, which `run` works through step by step.

`options` has the settings, `inputs` looks at what the user brought, `steps` describes every step,
`plan` compares them with the record of earlier runs, `estimate` adds what they cost, `run` does
them and `record` keeps account.  This is the only place that calls several verbs.
"""
