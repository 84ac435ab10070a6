"""`vilbert finetune multitask`: fine-tune one model on several tasks."""
