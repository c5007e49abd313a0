// Looking labels up in a table: checks and outputs, shared by every device.
#pragma once

#include "common.h"

namespace dhvt {

// What relabel does: N tables of every image, one unless the tables have a dimension for them.
struct RelabelTask {
  const int32_t* labels;  // [B,P]
  const int32_t* table;   // [N,B,K]
  int32_t* out;           // [N,B,P]
  int64_t tables, batch, pixels, size;
};

// labels [B,H,W], table [B,K] or [N,B,K]; the output is [B,H,W] or [N,B,H,W]. kernel(RelabelTask).
template <typename Kernel>
Tensor relabel_checked(const Tensor& labels, const Tensor& table, const Kernel& kernel) {
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  const int64_t batch = labels.size(0), height = labels.size(1), width = labels.size(2);
  const bool many = table.dim() == 3;
  if (many)
    check(table, "table [N,B,K]", ScalarType::Int, {-1, batch, -1});
  else
    check(table, "table [B,K]", ScalarType::Int, {batch, -1});
  const int64_t tables = many ? table.size(0) : 1;
  Tensor out = many ? empty({tables, batch, height, width}, ScalarType::Int, labels)
                    : empty({batch, height, width}, ScalarType::Int, labels);
  const Tensor l = dense(labels), t = dense(table);
  kernel(RelabelTask{data<int32_t>(l), data<int32_t>(t), mutable_data<int32_t>(out), tables, batch, height * width,
                     table.size(table.dim() - 1)});
  return out;
}

}  // namespace dhvt
