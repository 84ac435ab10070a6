"""`vilbert finetune TASK`: from a pre-trained model to a model of one task."""
