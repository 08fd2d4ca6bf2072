"""The benchmark tool, `kamishibai bench URL`: a load of any shape on a server that speaks the OpenAI API, measured.

It is a client and computes nothing, so it imports contracts and the rest of the command line's clients, never server,
workers, models or torch; matplotlib only where figures are drawn. Nothing of it but `command.py` is imported from
outside. From the load to the page: `options` and `served` say what is asked for and of whom, `arrivals`, `texts` and
`calls` what is asked when; `connections`, `http_answer`, `events`, `content` and `asking` ask it; `load` drives them,
`rehearsal`, `measurement` and `repeats` in their order; `summary`, `series`, `distribution` and `objective` make
`results` of what came; `tables`, `notes`, `figures`, `report` and `comparison` show them.
"""
