"""The program of a fine-tuning job. It runs in the engine environment and imports nothing else of the platform.

    python -m llmariner.fine_tuning.training_program

It is sent to the job as one archive, so a job trains by the program of the platform that started it.
"""
