"""`vilbert finetune TASK`: fine-tune a pre-trained model on one task."""
