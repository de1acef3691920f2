"""What `spreadflow doctor` looks at: whether a machine has what the stages need, each in one small
check, and how to mend what it lacks.
"""
