from benchmarks.efficacy.boxes.experiment import main

main()
