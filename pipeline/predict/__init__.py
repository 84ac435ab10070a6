"""`vilbert predict TASK` and `Predictor`: ask a fine-tuned model about photographs."""
