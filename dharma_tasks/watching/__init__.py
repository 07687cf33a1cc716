"""What is known at each moment, for whoever watches all databases and runs. It only looks.

Redis -> sight        the runs and workers of now, read at each look
journals -> known     as they were heard last, asked in the background
what was submitted -> submissions
"""
