export OMP_NUM_THREADS=1
make quickstart
mutualnet serve output/quickstart
