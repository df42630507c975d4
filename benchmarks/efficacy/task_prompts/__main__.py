from benchmarks.efficacy.task_prompts.experiment import main

main()
