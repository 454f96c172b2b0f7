"""Fine-tuning jobs: the command line as a supervised process, and the models it makes."""
