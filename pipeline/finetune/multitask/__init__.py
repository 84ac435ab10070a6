"""`vilbert finetune multitask`: one model of several tasks."""
