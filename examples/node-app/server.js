'use strict';
const http = require('http');
const { fibonacci } = require('./lib');
http.createServer((req, res) => {
  const n = Math.min(Number(req.url.slice(1)) || 10, 30);
  res.end(`${fibonacci(n)}\n`);
}).listen(process.env.PORT || 3000);
