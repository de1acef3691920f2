"""Config section and models in, models out: the steps of the stages as functions, without files,
ranks or logs.
"""
