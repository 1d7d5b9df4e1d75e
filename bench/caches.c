/* How long a load takes: each of `count` loads reads the address of the next one, so that none can begin before the last
   has ended. */
void *chase(void *start, long count) {
    void **place = start;
    for (long n = 0; n < count; n += 1) place = *place;
    return place;
}

/* How long a pass takes that reads one byte of every `stride` of an array: loads that do not wait for one another. */
long skim(const unsigned char *bytes, long size, long stride) {
    long sum = 0;
    for (long n = 0; n < size; n += stride) sum += bytes[n];
    return sum;
}
