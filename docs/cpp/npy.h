// Arrays in numpy's .npy files: what np.save writes and np.load reads.
#pragma once

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace npy {

// Memory that compiled code may read whole vectors from: it begins at a multiple of 64 bytes.
struct Aligned {
  void AllocData(DLTensor* tensor) {
    size_t bytes = tvm::ffi::GetDataSize(*tensor);
    tensor->data = std::aligned_alloc(64, (bytes / 64 + 1) * 64);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

inline tvm::ffi::Tensor empty(const std::vector<int64_t>& shape, DLDataType dtype) {
  return tvm::ffi::Tensor::FromNDAlloc(Aligned(), tvm::ffi::ShapeView(shape.data(), shape.size()), dtype,
                                       DLDevice{kDLCPU, 0});
}

// numpy's name of a dtype, such as "<f4". What numpy lacks (bfloat16) is saved as raw bytes.
inline std::string descriptor(DLDataType dtype) {
  int bytes = dtype.bits / 8;
  const char* kind = dtype.code == kDLFloat ? "f" : dtype.code == kDLInt ? "i" : dtype.code == kDLUInt ? "u" : nullptr;
  if (dtype.code == kDLBool) return "|b1";
  if (kind == nullptr) return "|V" + std::to_string(bytes);
  return (bytes == 1 ? "|" : "<") + std::string(kind) + std::to_string(bytes);
}

// The value of a key in the header, which is a Python dictionary on one line.
inline std::string field(const std::string& header, const std::string& key) {
  size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) throw std::runtime_error("its header lacks '" + key + "'");
  size_t begin = header.find_first_not_of(' ', at + key.size() + 3);
  size_t end = header[begin] == '(' ? header.find(')', begin) : header.find(',', begin);
  return header.substr(begin, end - begin + (header[begin] == '(' ? 1 : 0));
}

inline tvm::ffi::Tensor load(const std::string& path, DLDataType dtype) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  unsigned char start[12] = {0};
  file.read(reinterpret_cast<char*>(start), 10);
  if (!file || std::string(start, start + 6) != "\x93NUMPY") throw std::runtime_error(path + ": is not an .npy file");
  size_t length = start[8] | start[9] << 8;
  if (start[6] > 1) {  // versions 2 and 3 have four bytes of length
    file.read(reinterpret_cast<char*>(start + 10), 2);
    length |= static_cast<size_t>(start[10]) << 16 | static_cast<size_t>(start[11]) << 24;
  }
  std::string header(length, ' ');
  file.read(header.data(), static_cast<std::streamsize>(length));
  if (!file) throw std::runtime_error(path + ": ends in its header");
  std::string wanted = "'" + descriptor(dtype) + "'";
  if (field(header, "descr") != wanted)
    throw std::runtime_error(path + ": has dtype " + field(header, "descr") + ", but the model takes " + wanted);
  if (field(header, "fortran_order") != "False")
    throw std::runtime_error(path + ": is in Fortran order; save np.ascontiguousarray(array)");
  std::vector<int64_t> shape;
  std::string text = field(header, "shape");
  for (size_t i = 0; i < text.size();) {
    if (text[i] < '0' || text[i] > '9') {
      ++i;
      continue;
    }
    size_t used = 0;
    shape.push_back(std::stoll(text.substr(i), &used));
    i += used;
  }
  tvm::ffi::Tensor tensor = empty(shape, dtype);
  auto bytes = static_cast<std::streamsize>(tvm::ffi::GetDataSize(tensor));
  file.read(static_cast<char*>(tensor.data_ptr()), bytes);
  if (file.gcount() != bytes) throw std::runtime_error(path + ": is shorter than its header says");
  return tensor;
}

inline void save(const std::string& path, const tvm::ffi::Tensor& tensor) {
  std::string shape;
  for (int64_t size : tensor.shape()) shape += std::to_string(size) + ", ";
  std::string header =
      "{'descr': '" + descriptor(tensor.dtype()) + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header += std::string(63 - (10 + header.size()) % 64, ' ') + "\n";
  std::ofstream file(path, std::ios::binary);
  file << "\x93NUMPY" << '\x01' << '\x00' << static_cast<char>(header.size() & 255)
       << static_cast<char>(header.size() >> 8) << header;
  file.write(static_cast<const char*>(tensor.data_ptr()),
             static_cast<std::streamsize>(tvm::ffi::GetDataSize(tensor)));
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

}  // namespace npy
