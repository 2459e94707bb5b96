#ifndef COUNT_H
#define COUNT_H
#include <stdio.h>
/* count_words returns how many words f holds. */
unsigned long count_words(FILE *f);
#endif
