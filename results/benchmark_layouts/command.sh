export OMP_NUM_THREADS=1
mutualnet benchmark-layouts --rounds 10 MODEL.DEVICE cpu
