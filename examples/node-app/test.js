'use strict';
const assert = require('assert');
const { fibonacci } = require('./lib');
assert.strictEqual(fibonacci(10), 55);
console.log('ok');
