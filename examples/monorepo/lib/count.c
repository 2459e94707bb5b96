#include "count.h"
#include <ctype.h>

unsigned long count_words(FILE *f) {
	unsigned long n = 0;
	int in = 0, c;
	while ((c = fgetc(f)) != EOF) {
		if (isspace(c))
			in = 0;
		else if (!in) {
			in = 1;
			n++;
		}
	}
	return n;
}
