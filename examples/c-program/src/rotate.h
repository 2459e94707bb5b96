/* rotate replaces each letter of text by the one n places after it. */
void rotate(char *text, int n);
